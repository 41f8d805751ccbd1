"""First names for the character models, where no file of names is given."""

from collections.abc import Sequence
from pathlib import Path

TEXT = """
Aaron Abigail Ada Adam Adele Adrian Agnes Aisha Alan Albert Alex Alexander Alice Alicia Alina
Alma Amanda Amelia Amir Amy Ana Andrea Andrew Angela Anita Anna Anne Anthony Anton Antonia Arjun
Arthur Asha Astrid Audrey August Aurora Ava Barbara Beatrice Bella Ben Benjamin Bernard Bianca
Boris Brian Bruno Camila Carla Carlos Carmen Caroline Cecilia Chiara Chloe Christian Clara
Claudia Colin Cora Cynthia Daisy Dalia Damian Daniel Daniela Daphne Daria David Deborah Denis
Diana Diego Dina Dmitri Dora Dorothy Dylan Edgar Edith Edward Elena Eli Elias Elisa Ella Ellen
Elliot Elsa Emil Emilia Emily Emma Enrique Eric Erika Esther Ethan Eva Evelyn Fabian Farah
Fatima Felix Fiona Flora Florence Frances Francis Frank Frida Gabriel Gemma George Georgia Gina
Gloria Grace Greta Gustav Hana Hanna Harold Harriet Harry Hassan Hazel Heidi Helen Helena Henry
Hugo Ian Ibrahim Ida Ines Ingrid Irene Iris Isaac Isabel Ivan Ivy Jack Jacob Jade James Jana
Jane Jasmine Jason Javier Jean Jenna Joan Joel Johanna John Jonas Jonathan Jordan Jorge Joseph
Josephine Joshua Juan Judith Julia Julian Juliet Juno Kai Kamal Karen Karim Karl Kate Katherine
Keiko Kenji Kevin Kira Klara Lara Laura Lea Leah Leila Lena Leo Leon Liam Lidia Lily Lina Linda
Lisa Lola Louis Louise Luca Lucas Lucia Lucy Luis Luna Lydia Mabel Madeleine Mai Manuel Mara
Marc Marco Margaret Maria Marie Marina Mario Marta Martin Mary Mateo Matilda Maude Max Maya
Megan Mei Mia Michael Miguel Mila Milan Milo Mina Mira Miriam Molly Monica Moses Nadia Naomi
Natalie Nathan Nico Nicholas Nina Noah Noel Nora Olga Oliver Olivia Omar Oscar Otto Pablo Paolo
Patricia Paul Paula Pedro Penelope Peter Philip Phoebe Pia Priya Quentin Rachel Rafael Ravi
Rebecca Rhea Richard Rita Robert Robin Rosa Rose Ruby Ruth Sabina Salma Sam Samir Samuel Sana
Sandra Sara Sebastian Selma Serena Silvia Simon Sofia Sonia Sophie Stella Stephen Susan Sylvia
Tamara Tara Teresa Theo Thomas Tim Tina Tobias Tomas Uma Una Ursula Valerie Vera Victor Victoria
Vincent Viola Violet Walter Wanda Wendy William Xavier Yara Yasmin Yuki Yusuf Yvonne Zara Zoe
Zofia
"""
NAMES = TEXT.split()


def read(path: Path | None) -> Sequence[str]:
    """The names of a file, each the first field of its line, or the short list."""
    if path is None:
        return NAMES
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.partition(",")[0] for line in lines if line]
